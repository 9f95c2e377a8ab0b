"""What happens to data: stages that turn files into files, and know nothing of who runs them."""
