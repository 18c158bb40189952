"""What makes a trained network smaller: pruning, lottery tickets, distillation."""
