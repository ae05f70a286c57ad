"""The commands and what stands behind them: the one room that imports both packages."""
