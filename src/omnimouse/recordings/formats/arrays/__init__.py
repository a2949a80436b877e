"""Arrays and tables of users as devices, trials and video."""
