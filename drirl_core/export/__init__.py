"""A trained policy as a folder that is complete by itself: for people, for model hubs, and for other programs."""
