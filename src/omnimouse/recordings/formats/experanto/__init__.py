"""The experanto session folder, the format of the OmniMouse corpus, opened without reading its arrays.

::

    <session>/
      meta.json                      animal, session and scan, or the session key
      responses/ eye_tracker/ treadmill/
        meta.yml                     rate, start, end, number of signals
        data.npy | data.mem          [T, S], .mem is raw C order
        meta/means.npy stds.npy      [S] or [1, S]; also unit_ids.npy, phase_shifts.npy
      screen/
        timestamps.npy               [F] seconds, one per displayed frame
        meta/00000.yml ...           one per trial
        data/00001.npy ...           one per image or video trial

Some things are additions of this package, for recordings that other formats hold (`save_recording` writes them). In the
`meta.yml` of a behaviour device: `channel_names`. In `meta.json`: `missing` (a list of behaviour devices that were not
recorded and have no folder), `withheld_tiers` (tiers whose responses were not published) and `notes` (findings about
what the folder was made of). In `screen/meta.yml`: `frames: false` (trials are known, but not what was shown). And time
that belongs to no tier has the tier `unused`.

`screen/combined_meta.json`, a cache that experanto writes into the folder, is neither read nor written: it may
be stale.
"""
