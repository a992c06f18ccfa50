"""The commands of `fedalign`, by what they are for."""
