"""What a step of an optimizer costs in time, beside Adam's."""
