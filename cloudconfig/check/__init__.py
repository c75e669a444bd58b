"""What is wrong with user-data, said before a node boots with it, and on the node before anything is applied."""
