"""The benchmark: this project and what people would use instead, side by side in one run."""
