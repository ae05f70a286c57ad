"""What people see: text for a terminal, tables, pictures, a run on one page."""
