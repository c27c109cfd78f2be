"""Water used: readings become volumes, volumes become charges, charges become a balance that explains itself."""
