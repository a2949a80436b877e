"""Damaged recordings by the thousand: tiny sessions, what is done to them, and what no reader may do in answer."""
