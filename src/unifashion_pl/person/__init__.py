"""What is known about a person who is to be dressed: joints, masks, sketches, and checks of what a user hands in."""
