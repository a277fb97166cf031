"""Gates that read what a served model writes: own prompts, and preference by a judge."""
