"""SENSORIUM folders of 2022 and 2023."""
