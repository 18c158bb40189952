"""`edgekit search`: a network that is as good as it can be within a device's budget."""
