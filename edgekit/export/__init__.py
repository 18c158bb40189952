"""Files for phones and boards: TFLite, each verified before it counts. Devices read `metadata` without torch."""
