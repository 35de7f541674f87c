"""Flows: an invertible map from data to noise, whose density is therefore known."""
