"""Images and samples: opened, batched, told apart, shown."""
