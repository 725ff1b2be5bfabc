"""What both services stand on: processes, files, sockets and HTTP. It knows f and the channel, and neither Alice nor Bob."""
