"""Names, and the folders and repos that they stand for; knows no model."""
