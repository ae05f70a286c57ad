"""The search for a recipe: its space, its study, its trials and its picture."""
