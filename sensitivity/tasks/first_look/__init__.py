"""What a model's first outputs look like where their form, scale or labels are not what the task takes."""
