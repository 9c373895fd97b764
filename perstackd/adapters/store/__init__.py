"""The durable store: `codec` writes values, `sqlite` keeps them, `blobs` keeps bytes by their digest."""
