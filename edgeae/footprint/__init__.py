"""What a model takes on a device, before it is there: flash, RAM, operations, time and energy."""
