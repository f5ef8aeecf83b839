"""Labels drawn over maps in training: texts, shields and symbols."""
