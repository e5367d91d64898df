"""Maintenance of a cache: functions that neither reading nor writing rows needs."""
