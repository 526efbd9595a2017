"""What the definitions are made with; nothing here is loaded by Dagster on its own."""
