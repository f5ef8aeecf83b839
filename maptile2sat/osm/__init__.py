"""Label-free maps drawn from OpenStreetMap extracts, in the styles that models are trained on."""
