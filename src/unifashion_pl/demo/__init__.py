"""A page in the browser in which a model can be tried: ``unifashion demo``."""
