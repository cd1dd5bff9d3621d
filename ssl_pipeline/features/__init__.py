"""encoder + dataset -> features of every split, with measures of quality that need no labels."""
