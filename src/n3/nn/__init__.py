"""Networks: masks, controllers, the growing MLP, and what networks are judged by."""
