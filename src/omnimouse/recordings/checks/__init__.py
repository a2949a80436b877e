"""Everything that can be wrong with a recording, as findings."""
