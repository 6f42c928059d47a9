"""The embedded hub: serves folders to modelhaul and to the official clients."""
