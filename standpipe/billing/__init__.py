"""What water costs: ratings, charges, statements, quotes and forecasts."""
