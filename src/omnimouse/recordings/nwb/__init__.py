"""NWB files as session folders."""

from omnimouse.recordings.nwb.importing import import_nwb, nwb_entries

__all__ = ["import_nwb", "nwb_entries"]
