"""Fine-tuning: a sentence encoder trained further, on what a table's users look for."""
