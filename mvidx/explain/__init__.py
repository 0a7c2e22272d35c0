"""What a trained model looks at and what its features are made of: Grad-CAM, attention maps, Fourier spectra."""
