"""Models with fewer bits or fewer weights, as interventions that come off again; and what is forgotten by it."""
