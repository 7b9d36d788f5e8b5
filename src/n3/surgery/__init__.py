"""Surgery: host functions that change the shapes of networks, optimiser state included."""
