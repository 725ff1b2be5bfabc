"""What both ends hold: the code f, the channel, and the service around them."""
