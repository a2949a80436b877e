"""The parts of a simulated recording: settings, stimuli, behavior, neurons, scan and the folder they are written to."""
