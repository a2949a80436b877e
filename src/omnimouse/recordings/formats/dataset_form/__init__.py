"""Recordings in a form that the library `datasets` reads: tables of Arrow, mapped, one folder per recording.

::

    <folder>/
      README.md                   a dataset card that lists every table as a configuration
      <session>/
        recording.json            clocks, types and sizes: what `read_metadata` reads
        recording.arrow           one row per response sample, with all that a reader wants to see beside it
        eye_tracker.arrow treadmill.arrow    one row per sample of the device
        screen.arrow              one row per displayed frame
        between.arrow             the frames that came and went between two rows of recording.arrow
        trials.arrow              one row per trial
        responses.signals.arrow ...          per-signal statistics, unit ids and phase shifts

Devices keep their own rate and clock, so windows are those of the source, bit for bit. A frame is stored once: in the
rows of `recording.arrow` at whose time it is on screen, or, where it came and went between two, in `between.arrow`.
`dataset_tables` reads the form and `dataset_writer` writes it.
"""
