"""What ``ustack demo`` runs: scenes (two endpoints and a wire) and the same measurements in each."""
