"""One adapter a method, all behind `methods.interface.Method`."""
