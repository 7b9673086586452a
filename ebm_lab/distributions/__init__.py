"""Laws: exact samples, exact densities, and what is fitted or integrated with them."""
