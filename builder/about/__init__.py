"""What a build says of itself: manifest, software bill of materials, sizes, times, budget."""
