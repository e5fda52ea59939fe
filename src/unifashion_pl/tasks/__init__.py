"""The three heads, each a LightningModule that can be trained alone or under UniFashionModule."""
