"""Do alike images get alike features?"""
