"""What every part with weights of its own needs: tensors from files, their comparison, what it is built again from, and what may be built."""
