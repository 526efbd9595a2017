"""Speed and cost, measured as ratios in one run; each script writes JSON with the machine and the versions."""
