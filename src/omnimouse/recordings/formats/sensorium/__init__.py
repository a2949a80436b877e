"""SENSORIUM folders, opened as they are distributed: of 2023 (dynamic stimuli) and of 2022 (static images).

::

    dynamic<animal>-<session>-<scan>-Video-<hash>/
      data/videos/<i>.npy          [H, W, T] grey levels from 0 to 255
      data/responses/<i>.npy       [N, T]
      data/behavior/<i>.npy        [2, T] pupil size, running speed
      data/pupil_center/<i>.npy    [2, T] gaze x, gaze y
      meta/neurons/unit_ids.npy    [N]
      meta/trials/tiers.npy        one name per trial; trial_idx.npy: one number or hash per trial
      meta/statistics/<kind>/all/mean.npy std.npy

    static<animal>-<session>-<scan>-GrayImageNet-<hash>/
      data/images/<i>.npy          [1, 144, 256] grey levels from 0 to 255
      data/responses/<i>.npy       [N] mean activity from 50 to 550 ms after the image appeared
      data/behavior/<i>.npy        [3] pupil size, its derivative, running speed
      data/pupil_center/<i>.npy    [2] gaze x, gaze y
      meta/                        as above, and meta/trials/frame_image_id.npy: one number per trial

One file per kind and trial. Of 2023 all are at 30 Hz, about 300 frames are valid and NaN pads the rest. `clips` says
how such trials become a recording, `stills` how single images do. Opening reads headers, all behaviour (a few kB a
trial) and, to find padding and what is withheld, a few neurons and a pixel of each trial.

Sources: Turishcheva et al., "The Dynamic Sensorium competition" (2023); Willeke et al., "The Sensorium competition on
predicting large-scale mouse primary visual cortex activity" (2022); and the competitions' starter kits.
"""
