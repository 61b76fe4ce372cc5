"""Answers that are kept: what stands for them, where they are looked up, and who waits for one."""
