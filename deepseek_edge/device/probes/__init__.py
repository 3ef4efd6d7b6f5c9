"""What a board says about itself: versions, clocks, heat, power. Parsers are pure, one reader."""
