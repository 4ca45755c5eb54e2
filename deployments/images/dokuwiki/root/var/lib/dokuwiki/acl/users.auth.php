# <?php exit()?>
visitor:$1$zoowiki$UYdQBS2rINO8slrNxZvIb.:Visitor:visitor@example.org:admin,user
